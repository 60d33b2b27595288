"""What is measured of a running K2, for Prometheus."""
