"""What becomes of servers and clients when the network, the system or the other end fails."""
