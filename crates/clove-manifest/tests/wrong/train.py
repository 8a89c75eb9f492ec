def run(config, shared):
    return config
