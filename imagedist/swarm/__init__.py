"""BitTorrent v2 swarms: one blob, one torrent. Rules, a session interface, libtorrent behind it, its twin in memory."""
