"""Answers for people: policies beside each other, accelerators beside each other, as a table, as JSON, and as one page
that needs no network.

Runs are made elsewhere (`world`, `engine`); here they are repeated, summed up and drawn. What is drawn is downsampled to the least, the
mean and the most of equal stretches of time, and says so. The page holds the very JSON that `--json` writes. Numbers that rest on no
published measurement are marked as projected wherever they are shown. What cannot be answered says why, in the place of the answer.
"""
