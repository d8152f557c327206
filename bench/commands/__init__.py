"""The sub-commands of ``imagedist-bench``, by what they measure."""
