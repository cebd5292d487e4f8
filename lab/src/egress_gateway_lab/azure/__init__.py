"""Azure on one machine, as far as the gateway's story needs it.

Read in this order: ``emulator`` (the server), ``dispatch`` (a request's way), ``kinds`` (what all
resource types share), ``providers`` (the types), ``store`` and ``operations`` (the state).
It promises that Azure's own clients cannot tell: ids, shapes, codes and words are ARM's, every
call is authenticated and authorized, writes take time and can fail. It does not promise any
service beyond the types in ``providers.registry``; an unknown type is a 404 that says so.
"""
