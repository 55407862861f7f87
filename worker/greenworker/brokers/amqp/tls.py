"""kombu's ``amqps://`` with the host name of each connection checked, where the options ask for it by
``server_hostname: None``.
"""

# mypy: disable-error-code="no-untyped-call,misc"

from __future__ import annotations

from typing import Any

from kombu.transport import pyamqp

from greenworker.brokers.amqp import confirms


class NameChecked(pyamqp.Transport):
    """For this connection only: the options belong to all connections of the app, and the next broker has
    another name.
    """

    def establish_connection(self) -> Any:
        """As kombu's."""
        client: Any = self.client
        options, host = client.ssl, client.hostname
        asked = isinstance(options, dict) and options.get("server_hostname", "") is None
        if not asked:
            return super().establish_connection()
        client.ssl = {**options, "server_hostname": host or "localhost"}
        try:
            return super().establish_connection()
        finally:
            client.ssl, client.hostname = options, host


class SSLTransport(NameChecked, confirms.Transport, pyamqp.SSLTransport):
    """What ``amqps://`` means after `greenworker.tls.check_host_names` and `confirms.install`."""
