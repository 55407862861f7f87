# Prometheus from Debian, for the demo and the end-to-end tests. `cluster/kube image build prometheus`
# Its configuration is expected in /etc/prometheus/prometheus.yml (mount a ConfigMap), its data goes to /prometheus.
# Debian builds it without kubernetes_sd_configs; dns_sd, http_sd and file_sd are there.
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN apt-get update \
 && apt-get install --yes --no-install-recommends prometheus \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /var/lib/prometheus \
 && install --directory --owner 65532 --group 65532 /prometheus
USER 65532:65532
EXPOSE 9090
CMD ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus", "--storage.tsdb.retention.time=6h", "--web.enable-lifecycle"]
