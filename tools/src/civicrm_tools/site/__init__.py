"""The CRM's sites: their releases (`release`), their jobs (`job_metrics`, `fetch_at_once`) and who has logged in
(`front_door_known`).
"""
