"""Takes donations out of a Redis queue and records each exactly once in CiviCRM."""
