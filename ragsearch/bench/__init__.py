"""The bench: what retrieval, training and searches cost, ours and in the designs they replace.

In: how many passages, clients, steps, trials, or an index. Out: one row a design and setting.
Knows all below it; of MLflow only what Ray and the search make of it.
"""
