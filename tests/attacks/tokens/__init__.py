"""At the API server and agents' ports: what a stolen or a wrong token gets."""
