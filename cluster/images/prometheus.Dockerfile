# Prometheus, for the demo and the end-to-end tests, in place of the official image that the chart names and that this machine
# cannot pull. `cluster/kube image build prometheus` builds the program from its Go module (cluster/prometheus/go.mod), with
# Kubernetes discovery only. As in the official image, the program is the entrypoint.
FROM scratch
COPY prometheus /bin/prometheus
USER 65532:65532
EXPOSE 9090
ENTRYPOINT ["/bin/prometheus"]
