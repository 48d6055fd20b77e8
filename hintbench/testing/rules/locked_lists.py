"""locked-lists: free lists change only while the lock of that page's zone is held by the changer.

Checked by the zone itself in isolate(), put_back() and rotate_to_front(), in every run
(`hintbench.core.zone`): the edit is carried out, in parts that others come between, and recorded.

Source: Duyck on v9 2/6, "You shouldn't be accessing __free_one_page without holding the zone lock".
"""
