"""The HTTP service, whose requests are stored in a database, and long lists; on one computer or on Ray."""

import lazy_loader

# Imported when first used: the service needs an extra, and lists do not.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
