"""The files for Prometheus and Grafana; `pgvigil metrics-files DIR` writes them."""
