"""Side-by-side timings: ours and what users would use instead, same work, same run, interleaved."""
