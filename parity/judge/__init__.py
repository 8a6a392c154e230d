"""The way from traces to verdicts: metrics, tolerances, rules, results, and the accepted baseline."""
