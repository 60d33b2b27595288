"""The upkeep of the Iceberg tables: what goes on beside the offloads, once a day.

It changes which files hold a table's rows, never the rows, but for those past their retention. It
takes no claim and knows no token: every commit is Iceberg's own compare-and-swap, and whichever of
two commits comes second is made again on what the first one left.
"""
