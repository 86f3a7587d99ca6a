"""What watches a server from outside: Prometheus' rules and Grafana's dashboards.

prometheus/     prometheus.yml (a laptop's, and compose's), ec2.yml, rules/, targets/
grafana/        dashboards/, as dashboards.py writes them, and provisioning/
dashboards.py   the command, `make dashboards`: server_rows.py and model_rows.py as JSON
panels.py       how a panel is drawn;  promql.py  its queries
README.md       what each alert means, and what to do
Imports nothing of the other rooms, and is imported by nothing.
"""
