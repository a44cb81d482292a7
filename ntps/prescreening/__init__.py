"""Which model for my texts: candidate models measured and ranked by held-out skill, and the page that reports it."""
