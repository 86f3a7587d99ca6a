"""What watches a server from outside: Prometheus' rules and Grafana's dashboards.

prometheus/     prometheus.yml (a laptop's, and compose's), ec2.yml, rules/, targets/
grafana/        dashboards/, as dashboards.py writes them, and provisioning/
dashboards.py   the command, `make dashboards`: server_rows.py and model_rows.py as JSON
panels.py       how a panel is drawn;  promql.py  its queries
drift.py        the command, `make drift`: reported_drift.py what instances say, measured_photos.py a folder, drift_page.py
README.md       what each alert means, and what to do
Imports archive, drift and release, and is imported by nothing.
"""
