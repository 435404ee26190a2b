"""What several test files share: an office at work on a real server, and eyes on that server."""
