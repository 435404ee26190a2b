"""The six agents. Importing one declares it; each runs as a process of its own."""

from oneroof.agents.comp_pull import comp_pull
from oneroof.agents.listing_search import listing_search
from oneroof.agents.mls_lookup import mls_lookup
from oneroof.agents.orchestrator import orchestrator
from oneroof.agents.scheduler import scheduler
from oneroof.agents.voicemail_handler import voicemail_handler

__all__ = ["comp_pull", "listing_search", "mls_lookup", "orchestrator", "scheduler", "voicemail_handler"]
