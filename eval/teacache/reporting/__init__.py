"""The pieces of the report: results read back, work counted, plots and pages drawn."""
