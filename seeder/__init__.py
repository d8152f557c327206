"""The site's controller: introduces peers, always seeds, keeps the node inventory and the tag journal."""
