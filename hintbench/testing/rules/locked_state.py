"""locked-state: what `Guest.guarded` has been told a lock for is touched with that lock held.

Checked by the guest itself (`hintbench.guest.own_state`) wherever rules are checked. Without it
others come before the touch, so that what is then lost is lost.

Source: GUARDED_BY() of clang's -Wthread-safety, lockdep_assert_held() and KCSAN, Documentation/
dev-tools/kcsan.rst: two CPUs that touch one thing, one of which writes, in no order, are a race.
"""
