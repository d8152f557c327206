"""Tag-driven sync between sites: rules, plan, queue, journal followed, bytes brought in by the site's proxy."""
