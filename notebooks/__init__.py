"""The numbered notebooks and the runner that executes them in order (`python -m notebooks.run`)."""
