"""How Envoy is told: resources with content-hash versions, as one immutable snapshot per group of proxies."""
