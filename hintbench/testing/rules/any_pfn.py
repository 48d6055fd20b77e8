"""any-pfn: the same block is found whether the page freed last was its head, middle or tail.

Checked by scenarios made for it (`hintbench.testing.comparisons`): one block is freed page by page,
in three orders that end with its first, a middle and its last page. Told in one and not in
another, the strategy breaks this rule; told in none, nothing is shown.

Source: Duyck on v9 2/6, who asks to look at "the PFN for all of the higher order pages this page
could be a part of", and finds the code for heads and for others to be twice the same.
"""
