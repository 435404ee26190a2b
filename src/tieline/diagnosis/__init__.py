"""What is wrong with a server or a pod, judged from plain values."""
