"""From Records to what a reader sees: published numbers, selections, tables, verdicts. No torch."""
