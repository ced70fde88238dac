"""What is run: a Python callable, any program, or the built-in PyTorch trainer."""
