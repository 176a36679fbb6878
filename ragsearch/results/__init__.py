"""What one does with a search: look at its trials, export one, evaluate it, ask it.

- `leaderboard`: finds a search and ranks its trials
- `export`: writes a trial's checkpoint as a bundle, with its `card`
- `bundle`: the folder `export` writes: its manifest, and whether it is whole
- `answering`: a bundle joined to its index, with the arithmetic of the search's validation
- `predictions`: what a bundle said to each question and why, in a file and back
- `evaluate`: scores bundles on questions, or their predictions again
- `ask`: answers questions, and shows the passages they were answered from
"""
