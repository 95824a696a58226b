"""Golden cases: figures produced once by published code, kept as data beside the rule that rebuilds
their inputs.
"""
