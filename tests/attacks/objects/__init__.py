"""With words: objects, requests and settings that somebody wrote."""
