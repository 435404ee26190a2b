"""Dead letters for the people who look after them: finding, sending again, editing, dropping."""
