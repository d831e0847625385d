"""Where clients come in: this machine's, its containers', and the outside's at the edge."""
