"""Ahead-of-time builds of the model's parts for one kind of device. No ray."""
