"""What other systems recorded, as history: Nextflow traces, WfFormat, Airflow's metadata database, CSV and Parquet."""

from workflows_pkg.history.imports.landing import Imported, import_files, undo_import

__all__ = ["Imported", "import_files", "undo_import"]
