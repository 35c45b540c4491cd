"""How far the engine's numbers are from published measurements: rows, predictions, the fit, and the table for people.

Rows are what others measured, with their sources, as data. A prediction takes a row's model, hardware and load and knows nothing of its
figures. The fit turns rows into the eight coefficients per chip; leaving a model family or an instance type out of it shows what
a prediction is worth for a combination that nobody measured. What cannot be predicted is listed with the reason, never dropped.
"""
