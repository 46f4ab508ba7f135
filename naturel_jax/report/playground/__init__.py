"""The page of ``naturel-try``: its photos and their scores, the items that are saved, and the server."""
