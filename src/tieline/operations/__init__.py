"""The actions that people perform. The command line, the pager and the dashboard call these."""
