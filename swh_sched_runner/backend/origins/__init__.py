"""Listers, the origins they list, the statistics of visits, and the policies that choose what is visited next."""
