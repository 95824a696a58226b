"""The HTTP service with its job database, and batch rendering of long lists; on one computer or on Ray."""

import lazy_loader

# Submodules are imported when first used: the service needs an extra, batch rendering does not.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
