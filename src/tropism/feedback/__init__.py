"""What people and judges said, in SQL: projects, leases, judgments, agreement, aggregation, migrations. No torch."""
