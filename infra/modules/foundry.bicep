// The Foundry resource, a project, the base deployment and one deployment per adapter.
param location string
param tags object
param token string
param identityId string
param modelDeployment string
param baseModel object
param adapters array

var base = [
  union(baseModel, { deployment: modelDeployment })
]
var tuned = map(adapters, adapter => union(adapter, { deployment: '${modelDeployment}-${adapter.domain}' }))

resource account 'Microsoft.CognitiveServices/accounts@2025-06-01' = {
  name: 'aif-aos-${token}'
  location: location
  tags: tags
  kind: 'AIServices'
  sku: { name: 'S0' }
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    // Tokens of Entra ID need a name of its own; keys are off.
    customSubDomainName: 'aif-aos-${token}'
    disableLocalAuth: true
    allowProjectManagement: true
    publicNetworkAccess: 'Enabled'
  }
}

resource project 'Microsoft.CognitiveServices/accounts/projects@2025-06-01' = {
  parent: account
  name: 'aos'
  location: location
  tags: tags
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    displayName: 'AOS'
    description: 'Agents and conversations of AOS'
  }
}

// One at a time: the account takes one write after the other, of deployments as of the project (RequestConflict).
@batchSize(1)
resource deployment 'Microsoft.CognitiveServices/accounts/deployments@2025-06-01' = [for item in concat(base, tuned): {
  parent: account
  name: item.deployment
  dependsOn: [project]
  sku: {
    name: item.sku
    capacity: item.capacity
  }
  properties: {
    model: {
      format: item.format
      name: item.name
      version: item.version
    }
    versionUpgradeOption: 'NoAutoUpgrade'
  }
}]

output name string = account.name
output projectEndpoint string = 'https://${account.name}.services.ai.azure.com/api/projects/${project.name}'
