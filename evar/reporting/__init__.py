"""What is made of measured rows: tables beside published figures, paired comparison, report, plots. No torch here."""
