"""What people and Prometheus ask a running server over HTTP, and the few things they may tell it."""
