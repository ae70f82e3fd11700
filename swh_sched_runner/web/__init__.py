"""What a program tells others about itself over HTTP: ``/metrics``, ``/healthz``, ``/readyz``."""
