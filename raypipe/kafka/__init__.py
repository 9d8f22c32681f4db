"""What everything that talks to Kafka shares: how a URL says where it is and who may connect."""

from raypipe.kafka.servers import Servers, parse_servers

__all__ = ["Servers", "parse_servers"]
