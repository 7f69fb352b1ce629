COPY live.checks FROM 'FOLDER/live_checks.csv' (FORMAT 'csv', force_not_null ('run_id', 'asset_key', 'check_name', 'passed', 'severity', 'at'), quote '"', delimiter ',', header 1);
COPY live.cursors FROM 'FOLDER/live_cursors.csv' (FORMAT 'csv', force_not_null ('source_id', 'shard', 'position', 'complete', 'updated_at'), quote '"', delimiter ',', header 1);
COPY live.events FROM 'FOLDER/live_events.csv' (FORMAT 'csv', force_not_null ('source_id', 'run_id', 'event_id', 'event_hash', 'kind', 'at'), quote '"', delimiter ',', header 1);
COPY live.materializations FROM 'FOLDER/live_materializations.csv' (FORMAT 'csv', force_not_null ('run_id', 'asset_key', 'partition_key', 'at'), quote '"', delimiter ',', header 1);
COPY live.runs FROM 'FOLDER/live_runs.csv' (FORMAT 'csv', force_not_null ('run_id', 'source_id', 'job_name', 'outcome_conflict', 'trigger', 'created_at'), quote '"', delimiter ',', header 1);
COPY live.step_attempts FROM 'FOLDER/live_step_attempts.csv' (FORMAT 'csv', force_not_null ('run_id', 'step_key', 'attempt', 'job_name', 'step', 'will_retry'), quote '"', delimiter ',', header 1);
COPY store.migrations FROM 'FOLDER/store_migrations.csv' (FORMAT 'csv', force_not_null ('name', 'applied_at'), quote '"', delimiter ',', header 1);
