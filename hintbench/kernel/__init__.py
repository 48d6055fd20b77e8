"""What the kernel does by itself beside the tapes: kswapd, reclaim, vmstat, and compaction."""
