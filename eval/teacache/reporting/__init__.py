"""Parts of the report: reading results, counting work, drawing plots and pages."""
